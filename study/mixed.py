"""The mixed logistic model of the answers, with a fallback that is told.

`mixedlm` fits it as R's lme4 does. It is loaded only where a model is fitted.
"""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from colorlib import ColorlibError
from study.answers import ORIGINAL
from study.intervals import LEVEL


class MixedModel(NamedTuple):
    """A fitted model.

    Attributes:
        formula: what was fitted, in lme4's notation.
        told: why it is not the whole model, a sentence; "" if it is.
        fixed: DataFrame, a row for each effect: estimate, error, z, p, low, high, odds_ratio.
        spreads: DataFrame, a row for each random effect: of (people, scenes or stimuli), effect
            (`all photos`, or a method's own deviation), sd on the logit.
        log_likelihood: float.
        converged: bool. False only if no model converged; then nothing here holds.
        singular: bool. An SD is estimated as 0, or two effects as one: the study is too small to
            show it.
    """

    formula: str
    told: str
    fixed: pd.DataFrame
    spreads: pd.DataFrame
    log_likelihood: float
    converged: bool
    singular: bool

    def sd(self, of) -> float:
        """The SD on the logit of `people`, `scenes` or `stimuli`, for all photos; 0 if not fitted.

        For people it is that of their leaning about originals.
        """
        rows = self.spreads[(self.spreads["of"] == of) & (self.spreads["effect"] == _ALL)]
        return float(rows["sd"].sum())


_ALL = "all photos"
_OF = {"participant": "people", "scene": "scenes", "stimulus": "stimuli"}


def mixed_model(answers, level=LEVEL, slopes=True) -> MixedModel:
    """`said_real ~ method + (method | participant) + (1 | scene) + (1 | stimulus)`.

    People differ in their leaning and in how well they see each method's colors (the slope of the
    method), scenes differ in how real they look in any version, and stimuli beyond that. Fitted by
    maximum likelihood with Laplace's approximation, as R's lme4 does it. Effects are log odds for a
    typical person and photo, so they are larger than the same effects in rates over all people. The
    originals are the reference. Standard errors treat the SDs as known, like lme4's `vcov(fit,
    use.hessian = FALSE)`; those in R's summary are a few percent larger in small studies.

    Where every scene has one version, its effect is the stimulus' and leaves the model. If the fit
    fails or does not converge, slopes lose their correlations with the leaning, and then leave the
    model. `told` says so.

    tests/benchmarks/README.md tells how often the intervals hold.

    Args:
        slopes: bool. False leaves out the slopes of the method.

    Returns:
        A `MixedModel`.

    Raises:
        ColorlibError: no answers of this kind, or no model could be fitted.
    """
    given = answers[answers["said_real"].notna()]
    levels = [ORIGINAL] * (ORIGINAL in set(given["method"]))
    levels += sorted(set(given["method"]) - {ORIGINAL})
    if not levels:
        raise ColorlibError("said_real: the table holds no answer of this kind")
    data = pd.DataFrame({name: given[name].to_numpy(str) for name in _OF})
    data["said_real"] = given["said_real"].to_numpy(float)
    # Columns of our own rather than a category: the library would number the levels.
    dummies = [f"method_{number}" for number in range(1, len(levels))]
    for name, method in zip(dummies, levels[1:], strict=True):
        data[name] = (given["method"] == method).to_numpy(float)
    photos, told = "(1 | scene) + (1 | stimulus)", []
    if data["stimulus"].nunique() == data["scene"].nunique():
        photos = "(1 | stimulus)"
        told.append("every scene has one version, so scenes are left out")
    terms = _people_terms(dummies if slopes else [])
    for people in terms:
        formula = " + ".join(["said_real ~ 1", *dummies, people, photos])
        fit = _fit(formula, data)
        if fit is not None and fit.converged:
            break
    if fit is None:
        raise ColorlibError("mixed model: could not be fitted; use the table of differences")
    told += [terms[people]] if terms[people] else []
    names = dict(zip(dummies, levels[1:], strict=True))
    spreads = pd.DataFrame(
        [
            (_OF[group.grouping_factor], names.get(term, _ALL), float(sd))
            for group in fit.VarCorr().groups.values()
            for term, sd in group.stddev.items()
        ],
        columns=["of", "effect", "sd"],
    )
    if dummies:
        formula = formula.replace(" + ".join(["1", *dummies]), "method")
    fixed = _fixed(fit, levels, level)
    likelihood = fit.logLik().value
    return MixedModel(
        formula, "; ".join(told), fixed, spreads, likelihood, fit.converged, fit.isSingular()
    )


def _people_terms(slopes) -> dict:
    """The terms of people to try, in turn, and what to tell if one is taken."""
    if not slopes:
        return {"(1 | participant)": ""}
    both = " + ".join(["1", *slopes])
    failed = "because the model with them did not converge"
    return {
        f"({both} | participant)": "",
        f"({both} || participant)": f"people's effects have no correlations, {failed}",
        "(1 | participant)": f"people have no slopes of the method, {failed}",
    }


def _fit(formula, data):
    """The fit, or None if there is none."""
    import mixedlm

    with warnings.catch_warnings():
        # Both are told in the result.
        warnings.filterwarnings("ignore", "Model (is singular|failed to converge)", UserWarning)
        try:
            return mixedlm.glmer(formula, data, family=mixedlm.families.Binomial())
        except (np.linalg.LinAlgError, ValueError, RuntimeError):
            return None


def _fixed(fit, levels, level):
    estimate, error = np.array(list(fit.fixef().values())), np.sqrt(np.diag(fit.vcov()))
    z = stats.norm.ppf((1 + level) / 2)
    return pd.DataFrame(
        {
            "estimate": estimate,
            "error": error,
            "z": estimate / error,
            "p": 2 * stats.norm.sf(np.abs(estimate / error)),
            "low": estimate - z * error,
            "high": estimate + z * error,
            "odds_ratio": np.exp(estimate),
        },
        index=pd.Index(levels, name="method"),
    )
