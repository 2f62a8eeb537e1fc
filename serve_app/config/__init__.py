"""The config: the `args` of a Serve application, as one frozen tree, and what follows from it alone.

tree.py         the tree and how a file is read
sections.py     its parts, with defaults and descriptions
source.py       where a checkpoint comes from: a value of its text
errors.py       what is wrong with a config, in words
overrides.py    which vLLM arguments may be set by hand, and how they are merged
graph_rules.py  which settings would take away the CUDA graphs of full decode batches
graph_sizes.py  tokens of the largest decode batch, and the CUDA-graph capture sizes
fast_paths.py   which fast paths a service leaves unused, and what each costs
hard_stop.py    whether HAProxy keeps open streams for as long as replicas drain
log_settings.py the settings with which warnings are written at once
"""

from serve_app.config.errors import ConfigError
from serve_app.config.sections import (
    AdmissionConfig,
    EngineConfig,
    IngressConfig,
    MigrationConfig,
    ModelSource,
    Speculator,
    StagingConfig,
    TimedConfig,
)
from serve_app.config.tree import (
    AppConfig,
    check_overrides,
    config_of,
    describe_errors,
    read_config,
    read_document,
)

__all__ = [
    "AdmissionConfig",
    "AppConfig",
    "ConfigError",
    "EngineConfig",
    "IngressConfig",
    "MigrationConfig",
    "ModelSource",
    "Speculator",
    "StagingConfig",
    "TimedConfig",
    "check_overrides",
    "config_of",
    "describe_errors",
    "read_config",
    "read_document",
]
