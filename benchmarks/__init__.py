"""Measures how fast hostler is, as ratios against yardsticks of the same run; see README.md beside this file."""
