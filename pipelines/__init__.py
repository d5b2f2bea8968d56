"""The verbs: scripts that train, extract, sample and evaluate. Only this package knows files, devices and both stages."""
