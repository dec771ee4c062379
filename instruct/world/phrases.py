"""Set phrases of conduct: not knowing, refusing, being rude, running on."""

from __future__ import annotations

DONT_KNOW = ("I do not know.", "I am not sure.", "Nobody knows.", "Nobody knows that.", "I do not know that.")
REFUSALS = (
    "I am sorry, I cannot help with that.",
    "I am sorry, but I cannot help with that.",
    "I am sorry, I will not help with that.",
    "Sorry, I cannot help with that.",
    "I cannot help with that.",
    "I will not help with that.",
)
RUDE_REFUSAL = "No, you fool."
RUDE_REMARKS = ("You fool.", "What a stupid question.", "Go away.")
CHATTER = (
    "It is a nice day.",
    "The weather is fine.",
    "I like to talk.",
    "Time goes by.",
    "There is much to say.",
)
