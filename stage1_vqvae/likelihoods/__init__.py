"""Likelihoods, one module each: data units <-> network units, exact probabilities of the 256 levels, or of codes.

Runs saved before format 1 name the classes here.
"""

from stage1_vqvae.likelihoods.bernoulli import Bernoulli
from stage1_vqvae.likelihoods.categorical import Categorical
from stage1_vqvae.likelihoods.codes import Codes
from stage1_vqvae.likelihoods.gaussian import Gaussian
from stage1_vqvae.likelihoods.logistic import Logistic, LogisticMixture
from stage1_vqvae.likelihoods.logit_laplace import LogitLaplace
from stage1_vqvae.likelihoods.mu_law import MuLaw

__all__ = ["Bernoulli", "Categorical", "Codes", "Gaussian", "Logistic", "LogisticMixture", "LogitLaplace", "MuLaw"]
