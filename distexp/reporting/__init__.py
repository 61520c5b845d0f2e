"""What a sweep looks like: plan, aggregates, the HTML report."""
