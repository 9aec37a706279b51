SELECT set_config('a', E'b\'', true), U&"d!0061t" UESCAPE '!' FROM pg_catalog.t -- x
 WHERE $1