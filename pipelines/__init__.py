"""The verbs: scripts that train, extract, sample and evaluate. The only package that knows files, devices and both stages."""
