SELECT 'a'
'b' || U&'c' || N'd', B'1', x'1F', $1, "x""y"[1], 1.5e3, $a$b$a$, a.b.c, 1::int FROM t