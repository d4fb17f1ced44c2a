"""Networks that transformers does not have, as its PreTrainedModels; `model.auto` registers them.

Configs and networks are apart: AutoConfig learns the configs while transformers itself is still
being imported, before there is a PreTrainedModel.
"""

# Importing one of the modules here imports transformers' table of configs first, and with it what
# `segacc.model.auto` adds: otherwise the module would be asked for while it is being imported.
import transformers.models.auto.configuration_auto  # noqa: F401
