# The reference fit of answers.csv by R's lme4, which test_study_analysis.py holds the project's to.
#
#   apt-get install --no-install-recommends r-base-core r-cran-lme4    # Debian
#   Rscript tests/study_reference/fit.R > tests/study_reference/fit.csv
#
# answers.csv holds simulated people, not a finding; test_study_analysis.py says how it was made.

suppressMessages(library(lme4))

arguments <- commandArgs(FALSE)
script <- sub("--file=", "", arguments[grep("--file=", arguments)])
answers <- read.csv(file.path(dirname(script), "answers.csv"))
answers$method <- relevel(factor(answers$method), ref = "original")

fit <- glmer(said_real ~ method + (1 | participant) + (1 | stimulus), answers, family = binomial)

spread <- as.data.frame(VarCorr(fit))
effects <- fixef(fit)
# R's summary takes the first kind, from the curvature in all parameters; the second takes the SDs
# of people and photos as known.
errors <- sqrt(diag(as.matrix(vcov(fit, use.hessian = TRUE))))
given_sds <- sqrt(diag(as.matrix(vcov(fit, use.hessian = FALSE))))
rows <- rbind(
  data.frame(what = sub("method", "", names(effects)), value = effects, error = errors, given_sds),
  data.frame(
    what = paste("sd", spread$grp), value = spread$sdcor, error = NA, given_sds = NA
  ),
  data.frame(what = "logLik", value = as.numeric(logLik(fit)), error = NA, given_sds = NA)
)
cat("# R", as.character(getRversion()), "lme4", as.character(packageVersion("lme4")), "\n")
write.csv(format(rows, digits = 8, trim = TRUE), row.names = FALSE, quote = FALSE)
