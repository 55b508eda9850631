-- Each in a migration of its own: whoever works meanwhile locks these tables one after the other, too.
drop index effect_due;
