"""What every stage is given: context, events, scheduler, and what is kept between runs."""
