"""What can be asked and checked: problem families, each with the work that a right run would show."""
