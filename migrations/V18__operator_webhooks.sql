-- Webhook endpoints of the operator, who hears of reconciliation. They stand under an id that no participant has, so what tells participants
-- of their payments asks for nothing more than before, and a process of the version before can read and serve the rows.
alter table webhook_endpoint drop constraint webhook_endpoint_participant_id_fkey;

-- Every other one is a participant's still.
alter table webhook_endpoint add column of_participant uuid
    generated always as (nullif(participant_id, '00000000-0000-0000-0000-000000000000')) stored references participant;
