"""Networks that transformers lacks, as PreTrainedModels; `model.auto` registers them.

Configs and networks are in separate modules: the configs are registered while transformers itself
is still being imported, before PreTrainedModel exists.
"""

# Importing a module of this package first imports transformers' config mapping, and through it
# `segacc.model.auto`: otherwise the module would be imported recursively.
import transformers.models.auto.configuration_auto  # noqa: F401
