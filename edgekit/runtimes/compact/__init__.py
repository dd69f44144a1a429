"""The compact reference: what a model says of a text, kept in a file in a fiftieth of the bytes of its logits.

`rows` turns logits into a few tokens each and scores others' logits against them, `chunks` writes those as bytes,
`file` is the file around them. `keeping` has a fenced process write one, `reference` reads it in the scoring process.
"""

from __future__ import annotations
