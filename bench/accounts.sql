-- The table that is read. Each answer can be checked: abalance follows from aid.
begin;
create table pgbench_accounts (aid int not null, bid int, abalance int, filler char(84));
insert into pgbench_accounts
    select i, 1 + (i - 1) / 100000, i::bigint * 7919 % 100003, '' from generate_series(1, 1000000) i;
alter table pgbench_accounts add primary key (aid);
commit;
vacuum (analyze, freeze) pgbench_accounts;
checkpoint;
