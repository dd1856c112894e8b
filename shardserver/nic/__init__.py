"""Network interfaces of the host: what they are, what may be changed on them, and how it is undone.

Start reading at README.md; decisions are in changes, guard, doctor and policy, effects elsewhere.
"""
