// pg_pool: the point read by pg-pool, the pool of node-postgres, with a named prepared statement.
//     node pg_pool.mjs --callers N --connections M --seconds S --warm-up S [--sleepers PERCENT] [--rows N]
// It finds the server by PGHOST (a directory of a socket, too), PGPORT, PGUSER and PGDATABASE.
import pg from 'pg'
import { POINT_READ, SLEEP, application, die, readOptions, run } from './load.mjs'

const options = readOptions()
const pool = new pg.Pool({ max: options.connections, application_name: application })
pool.on('error', (error) => die(error.message)) // of a connection that nobody uses just now

await run({
    read: async (aid) => (await pool.query({ name: 'point_read', text: POINT_READ, values: [aid] })).rows,
    sleep: async () => (await pool.query(SLEEP)).rows,
    count: async (text) => (await pool.query(text)).rows[0].n,
    end: () => pool.end(),
})
