"""The configuration files as frozen pydantic models: the only place where input is validated.

Inside, types are trusted. Each field is explained in its ``description``, from which
``docs/configuration.md`` is generated (`common.reference`).
"""

from common.config.centre import CentreConfig, load_centre
from common.config.federation import (
    FederationConfig,
    PlantSection,
    load_federation,
)
from common.config.plant import (
    CentreSection,
    LinkSection,
    PlantConfig,
    PolicySection,
    load_plant,
)
from common.config.privacy import PrivacyConfig
from common.config.section import Section
from common.config.server import ServerConfig
from common.config.sums import SecureAggregationConfig
from common.config.template import template
from common.config.text import PlantTextSection, TextSection
from common.config.training import MethodConfig, TrainingConfig
from common.config.update import UpdateConfig

__all__ = [
    "CentreConfig",
    "CentreSection",
    "FederationConfig",
    "LinkSection",
    "MethodConfig",
    "PlantConfig",
    "PlantSection",
    "PlantTextSection",
    "PolicySection",
    "PrivacyConfig",
    "Section",
    "SecureAggregationConfig",
    "ServerConfig",
    "TextSection",
    "TrainingConfig",
    "UpdateConfig",
    "load_centre",
    "load_federation",
    "load_plant",
    "template",
]
