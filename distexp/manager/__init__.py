"""The manager: its life, which worker gets which task, how attempts end, answers to people."""
