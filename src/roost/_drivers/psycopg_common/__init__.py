"""What the psycopg drivers share: parameters of a DSN, sessions, errors, private names."""
