"""The `.aqs` file: a snapshot with zero pages left out and hot pages apart from cold ones."""
