-- migrate:up
-- A hundred failures of an account close it to all but the devices that are known, so whoever could
-- write them by SQL could keep an owner out. Logins act as nobody; people count their own proofs, and
-- let go of what was counted, once they are in.
CREATE FUNCTION auth.admit_failure() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    actor text := core.current_principal();
    person bytea := convert_to(split_part(actor, ':', 2), 'UTF8');
BEGIN
    IF auth.acts_for_platform() OR actor LIKE 'anonymous:%' THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.failures <= OLD.failures
        AND (OLD.subject, OLD.kind, OLD.last_failed_at)
        = (NEW.subject, NEW.kind, NEW.last_failed_at)
    THEN
        RETURN NEW;
    END IF;
    -- As identity/backoff.py writes the subject of a proof: each part after its length.
    IF actor LIKE 'user:%' AND NEW.kind = 'proof' AND NEW.subject = sha256(
        int4send(5) || convert_to('proof', 'UTF8') || int4send(octet_length(person)) || person
    ) AND (TG_OP = 'INSERT' OR OLD.subject = NEW.subject) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% of auth.login_failures is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege', HINT = 'failures are counted by logins';
END
$$;
CREATE TRIGGER admit_failure BEFORE INSERT OR UPDATE ON auth.login_failures
FOR EACH ROW EXECUTE FUNCTION auth.admit_failure();

-- migrate:down
-- Nothing is lost.
DROP TRIGGER admit_failure ON auth.login_failures;
DROP FUNCTION auth.admit_failure();
