-- What a bank has booked since an instant is asked for with every proof. A BRIN index says nothing of pages that nobody has summarised
-- yet, and by itself only VACUUM does that: of a table that grows all day, hours of it were read each time.
drop index effect_booked;
create index effect_booked on effect using brin (booked_at) with (autosummarize = on);
