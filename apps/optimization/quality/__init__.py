"""May a cheaper model answer? Decided on pairs of judged answers to the same question, never on one model's answers.

Evidence: E0 compares list prices; E1 knows judged answers to different questions, or other people's data; E2 has
judged answers of both models to the same questions; E3 ran beside production; E4 is a controlled comparison. Only from
E2 on is something a saving.
"""
