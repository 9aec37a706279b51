// postgres_js: the point read by postgres.js: prepared statements, and its pipelining as it comes.
//     node postgres_js.mjs --callers N --connections M --seconds S --warm-up S [--sleepers PERCENT] [--rows N]
// It finds the server by PGHOST (a directory of a socket, too), PGPORT, PGUSER and PGDATABASE.
import postgres from 'postgres'
import { POINT_READ, SLEEP, application, readOptions, run } from './load.mjs'

const options = readOptions()
const sql = postgres({ max: options.connections, connection: { application_name: application } })

await run({
    read: (aid) => sql.unsafe(POINT_READ, [aid], { prepare: true }),
    sleep: () => sql.unsafe(SLEEP, [], { prepare: true }),
    count: async (text) => (await sql.unsafe(text))[0].n,
    end: () => sql.end(),
})
