"""A second look at one place: the last ten layers at half the rate that the pilot's one seed chose. Chapter 09.

In `places` they came out far worse, with every seed, than the pilot's seed had let expect. Was it the place, or a rate chosen by one lucky run?
The runs of `places` again, same seeds and same rows, at the neighbouring rate. Asked after the test rows had spoken: it chooses nothing.
"""

from dataclasses import replace

from lora_edu.course.sweeps import places
from lora_edu.course.sweeps.places_pilot import PLACES

RATE = 2e-3

SWEEP = replace(
    places.SWEEP,
    name="places_last_ten",
    title="the last ten layers at half of their chosen rate; test loss on dates",
    cells=[PLACES["last ten layers"].cell() | {"learning_rate": RATE}],
)
