from .claims import Claim as Claim
from .claims import claims_table as claims_table
from .claims import ledger as ledger
from .hall import catalogue as catalogue
from .hall import false_alarms_and_misses as false_alarms_and_misses
from .hall import strangers as strangers
from .hall import visit as visit
from .specimen import Exhibit as Exhibit
