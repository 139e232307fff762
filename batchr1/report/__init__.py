"""What an output holds, in numbers."""
