from . import adapters as adapters
from . import course as course
from . import data as data
from . import evaluation as evaluation
from . import experiments as experiments
from . import models as models
from . import plots as plots
from . import tasks as tasks
from . import training as training
from . import widgets as widgets
from .adapters.config import LoRAConfig as LoRAConfig
from .adapters.injection import audit as audit
from .adapters.injection import inject as inject
from .adapters.merging import merge as merge
from .adapters.save_load import load as load
from .adapters.save_load import save as save
from .evaluation.report import evaluate as evaluate
from .experiments.advisor import advise as advise
from .models.base import load_base as load_base
from .training.config import TrainConfig as TrainConfig
from .training.trainer import Trainer as Trainer

__version__: str
