"""What is unusual about a scan or a result: findings with a code, a level and a sentence."""
