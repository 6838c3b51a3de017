"""A year of flights, replayed day by day; see benchmarks/year_of_flights.py."""
