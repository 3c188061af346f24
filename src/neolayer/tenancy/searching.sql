-- search_users --
-- People of the asking tenant by a part of their email or username.
SELECT id, email, username, status, created_at, last_login_at
FROM auth.search_users(%(term)s::text, %(most)s::int);

-- search_documents --
-- Documents of the asking tenant that contain this part.
SELECT data_id, data, created_at, updated_at
FROM core.search_documents(%(part)s::jsonb, %(after)s::uuid, %(most)s::int);
