"""Makes the specimen and its control: their training recipe, their model cards, the corpus and the questions."""
