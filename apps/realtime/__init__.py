"""Floor 3, the post office: carries messages between browser and house, and reads none of them."""
