# The reference fits of answers.csv by R's lme4, which test_study_analysis.py holds the project's to.
#
#   apt-get install --no-install-recommends r-base-core r-cran-lme4    # Debian
#   Rscript tests/study_reference/fit.R > tests/study_reference/fit.csv
#
# answers.csv holds simulated people, not a finding; test_study_analysis.py says how it was made.
# `plain` has no slopes of the method and takes versions of a scene for strangers; `whole` has both.

suppressMessages(library(lme4))

arguments <- commandArgs(FALSE)
script <- sub("--file=", "", arguments[grep("--file=", arguments)])
answers <- read.csv(file.path(dirname(script), "answers.csv"))
answers$method <- relevel(factor(answers$method), ref = "original")

rows <- function(model, formula) {
  # bobyqa to its end: lme4's default stops before the optimum of the whole model.
  control <- glmerControl(optimizer = "bobyqa", optCtrl = list(maxfun = 1e5, rhoend = 1e-8))
  fit <- glmer(formula, answers, family = binomial, control = control)
  spread <- subset(as.data.frame(VarCorr(fit)), is.na(var2))
  effects <- fixef(fit)
  # R's summary takes the first kind, from the curvature in all parameters; the second takes the SDs
  # of people and photos as known.
  errors <- sqrt(diag(as.matrix(vcov(fit, use.hessian = TRUE))))
  given_sds <- sqrt(diag(as.matrix(vcov(fit, use.hessian = FALSE))))
  of <- sub("method", " ", sub("\\(Intercept\\)", "", spread$var1))
  rbind(
    data.frame(
      model, what = sub("method", "", names(effects)), value = effects, error = errors, given_sds
    ),
    data.frame(
      model, what = paste0("sd ", spread$grp, of), value = spread$sdcor, error = NA, given_sds = NA
    ),
    data.frame(
      model, what = "logLik", value = as.numeric(logLik(fit)), error = NA, given_sds = NA
    )
  )
}

plain <- rows("plain", said_real ~ method + (1 | participant) + (1 | stimulus))
whole <- rows(
  "whole", said_real ~ method + (method | participant) + (1 | scene) + (1 | stimulus)
)
cat("# R", as.character(getRversion()), "lme4", as.character(packageVersion("lme4")), "\n")
write.csv(format(rbind(plain, whole), digits = 8, trim = TRUE), row.names = FALSE, quote = FALSE)
