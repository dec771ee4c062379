"""What a stage will hold in memory, part by part, and under which level of sharding it fits."""
