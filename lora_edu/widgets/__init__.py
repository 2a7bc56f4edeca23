"""One class a widget: it computes with the core, draws with `plots`, and leaves a picture behind."""

from lora_edu.widgets.adapter_mixer import AdapterMixer, MixerData
from lora_edu.widgets.base import Widget
from lora_edu.widgets.blind_ab import BlindAB
from lora_edu.widgets.budget import BudgetPainter
from lora_edu.widgets.budget_spender import BudgetSpender
from lora_edu.widgets.capacity_meter import CapacityMeter
from lora_edu.widgets.claim_explorer import ClaimExplorer
from lora_edu.widgets.dashboard import TrainingDashboard
from lora_edu.widgets.data_parallel import DataParallelPlanner
from lora_edu.widgets.dial import AdapterDial, DialData
from lora_edu.widgets.directions import RankDirections
from lora_edu.widgets.export_map import ExportMap
from lora_edu.widgets.fair_race import FairRace
from lora_edu.widgets.knob_map import KnobMap, Knobs
from lora_edu.widgets.memory import MemoryBars
from lora_edu.widgets.quantisation import QuantisationLine
from lora_edu.widgets.ranks import RankSlider
from lora_edu.widgets.shapes import ShapesAndStarts
from lora_edu.widgets.spectrum import SpectrumExplorer
from lora_edu.widgets.tokens import TokenInspector

__all__ = [
    "AdapterDial",
    "AdapterMixer",
    "BlindAB",
    "BudgetPainter",
    "BudgetSpender",
    "CapacityMeter",
    "ClaimExplorer",
    "DataParallelPlanner",
    "DialData",
    "ExportMap",
    "FairRace",
    "KnobMap",
    "Knobs",
    "MemoryBars",
    "MixerData",
    "QuantisationLine",
    "RankDirections",
    "RankSlider",
    "ShapesAndStarts",
    "SpectrumExplorer",
    "TokenInspector",
    "TrainingDashboard",
    "Widget",
]
