"""What a teacher needs around the chapters: copies to hand out, a grader, a class's predictions, paths of a given length."""
