-- Operators and clients send deliveries again.

-- read_delivery --
-- A delivery of an existing webhook, and whether that webhook is disabled. An e-mail is found for those who see all clients.
SELECT w.disabled_at IS NOT NULL, {delivery_columns}
  FROM deliveries d
  LEFT JOIN webhooks w ON w.id = d.webhook_id
 WHERE d.id = %(id)s
   AND (w.id IS NOT NULL OR d.email IS NOT NULL)
   AND (%(client)s::text IS NULL OR w.client_id = %(client)s);

-- resend --
-- Makes the delivery due now, with all its tries. Skips a delivery that a courier is sending.
UPDATE deliveries d
   SET status = 'pending', tries = 0, due_at = now()
 WHERE d.id = %(id)s
   AND (d.token IS NULL OR d.due_at <= now())
RETURNING {delivery_columns};

-- resend_failed --
-- Makes the oldest failed deliveries due now, with all their tries.
UPDATE deliveries
   SET status = 'pending', tries = 0, due_at = now()
 WHERE id = ANY(ARRAY(SELECT id
                        FROM deliveries
                       WHERE webhook_id = %(id)s
                         AND status = 'failed'
                         AND id <= %(newest)s
                       ORDER BY id
                       LIMIT %(limit)s
                         FOR UPDATE));
