"""What everything else is built on: the contract, errors, places, dates and forms of numbers."""
