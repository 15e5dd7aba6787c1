"""The works of many sessions at once: sleepers, replies, recovery after a kill, and crons; each as a whole round of one side."""
