"""The verbs: scripts that train, extract, sample, evaluate. Only this package knows files, devices and both stages."""
