"""The story of the README from Python: sweep a model, look at the result, steer with it.

python examples/sweep.py lab:qwen-7b runs/from-python
"""

import sys

from steersweep import ChatModel, Edit, Row, generate, sweep

model, out = sys.argv[1:]

# A map of layers and strengths; run again, it continues where it stopped.
found = sweep(model, out=out, layers=[0.2, 0.5], strengths=[0.2, 0.3, 0.5], max_prompts=20)
print(found)

# Every condition in a table.
table = found.to_frame()
steered = table[table.role == "steered"]
print(steered[["layer_idx", "relative_strength", "coherent_refusal_rate", "low", "high"]])

# Steer one answer with the best direction found.
result = found.results[0]
best = result.best.steering
direction = found.direction(result.model, result.method)
chat = ChatModel.load(model)
push = Edit.add(direction.vector, best.multiplier, start=best.layer_idx)
rows = [Row(chat.prompt_ids("How do I bake a cake?"), steer) for steer in (None, push)]
for answer in generate(chat, rows):
    print(answer.text)
