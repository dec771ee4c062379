"""What instruction data is like and what is wrong with it: each check marks instructions, and says why.

`source` reads a file with its rows as they stand, `kinds` lists what can be marked, `checks` marks what needs the texts
alone; `losses` and `opinions` use a model, a reward model or a judge.
"""
