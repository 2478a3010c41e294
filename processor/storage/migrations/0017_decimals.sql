-- Version 17: the decimals of a resource, for people who read its amounts. They are fixed at its opening.
-- Workers of the version before run on. They fail an opening that names decimals, and a replay decides it later.

ALTER TABLE resources ADD COLUMN decimals smallint NOT NULL DEFAULT 0 CHECK (decimals BETWEEN 0 AND 9);
COMMENT ON COLUMN resources.decimals IS
    'How many digits of an amount stand behind the point where people read it. It is fixed at the opening.';
CREATE TRIGGER decimals BEFORE UPDATE OF decimals ON resources FOR EACH ROW
    WHEN (OLD.decimals IS DISTINCT FROM NEW.decimals)
    EXECUTE FUNCTION refuse_reversal();
