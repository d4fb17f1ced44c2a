"""Networks that transformers does not have, as its PreTrainedModels; `segacc.auto` registers them.

Configs and networks are apart: AutoConfig learns the configs while transformers itself is still
being imported, before there is a PreTrainedModel.
"""

# Whoever imports one of the modules here gets transformers' table of configs, and with it what
# `segacc.auto` adds, first: the other way round, the module would be asked for while it is made.
import transformers.models.auto.configuration_auto  # noqa: F401
