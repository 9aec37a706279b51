// load: what postgres_js.mjs and pg_pool.mjs share: options, callers in closed loops, latencies, the samples told.
import { performance } from 'node:perf_hooks'

const FACTOR = 7919n, MODULUS = 100003n

export const POINT_READ = 'SELECT abalance FROM pgbench_accounts WHERE aid = $1'
export const SLEEP = 'SELECT pg_sleep(0.05)'

export function die(message) {
    console.error(`bench: ${message}`)
    process.exit(1)
}

const options = { callers: 1, connections: 1, rows: 1000000, seconds: 1, 'warm-up': 0.2, sleepers: 0 }
const counts = ['callers', 'connections', 'rows']

export function readOptions() {
    const words = process.argv.slice(2)
    for (let i = 0; i < words.length; i += 2) {
        const name = words[i].replace(/^--/, ''), value = Number(words[i + 1] ?? NaN)
        if (!words[i].startsWith('--') || !Object.hasOwn(options, name))
            die(`unknown option ${words[i]}`)
        if (!(value >= 0) || (counts.includes(name) && !(Number.isInteger(value) && value >= 1)))
            die(`${words[i]} ${words[i + 1] ?? ''}: not a number that it could be`)
        options[name] = value
    }
    return options
}

function checkBalance(aid, rows) {
    const expected = Number((BigInt(aid) * FACTOR) % MODULUS)
    if (rows.length !== 1 || rows[0].abalance !== expected)
        throw new Error(`aid ${aid}: got ${JSON.stringify(rows)}, not ${expected}`)
}

// By nearest rank.
function quantile(sorted, q) {
    return sorted[Math.max(Math.ceil(q * sorted.length) - 1, 0)]
}

function tell(name, unit, value) {
    console.log(`${name}\t${unit}\t${Number(value.toPrecision(6))}\t`)
}

function tellAll(found, seconds, cpu, connections) {
    const sorted = Float64Array.from(found.latencies).sort()
    if (sorted.length === 0)
        throw new Error('no point read was answered within the time')
    tell('throughput', 'statements/s', found.statements / seconds)
    for (const [name, q] of [['p50', 0.5], ['p90', 0.9], ['p99', 0.99], ['p99.9', 0.999], ['max', 1]])
        tell(`latency ${name}`, 'ms', quantile(sorted, q))
    tell('CPU', 'us/statement', (cpu.user + cpu.system) / found.statements)
    tell('connections', 'count', connections)
}

const pass = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000))

async function callUntilOver(pool, found) {
    while (found.phase !== 'over') {
        const sleeper = Math.random() * 100 < options.sleepers
        const aid = 1 + Math.floor(Math.random() * options.rows)
        const began = performance.now()
        if (sleeper)
            await pool.sleep()
        else
            checkBalance(aid, await pool.read(aid))
        if (found.phase !== 'measuring')
            continue
        found.statements++
        if (!sleeper)
            found.latencies.push(performance.now() - began)
    }
}

// A pool: read(aid) and sleep() resolve to rows, count(text) to one number, end() closes it.
async function measure(pool) {
    const found = { phase: 'warm-up', statements: 0, latencies: [] }
    const callers = Array.from({ length: options.callers }, () => callUntilOver(pool, found))
    const all = Promise.all(callers)
    await Promise.race([pass(options['warm-up']), all]) // all: if one of them fails
    const began = performance.now(), cpu = process.cpuUsage()
    found.phase = 'measuring'
    await Promise.race([pass(options.seconds), all])
    found.phase = 'over'
    const seconds = (performance.now() - began) / 1000, used = process.cpuUsage(cpu)
    await all
    tellAll(found, seconds, used, await countConnections(pool))
}

// Who asks is among them. Neither pool closes what is idle within so short a time.
export const application = `bench-${process.pid}`

async function countConnections(pool) {
    return pool.count(`SELECT count(*)::int AS n FROM pg_stat_activity WHERE application_name = '${application}'`)
}

export async function run(pool) {
    try {
        await measure(pool)
        await pool.end()
    } catch (error) {
        die(error.message || error.code || String(error))
    }
}
