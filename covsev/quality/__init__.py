"""What is unusual about a scan or a result: flags with a code, a level and a sentence."""
