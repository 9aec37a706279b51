// pgxpool: the point read by goroutines that share a pgxpool; the statement is prepared once on each connection.
//
//	pgxpool --callers N --connections M --seconds S --warm-up S [--sleepers PERCENT] [--rows N]
//
// Built with what Debian has, outside any module, so that no list of modules has to be fetched:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o pgxpool bench/peers/pgxpool.go
package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v4/pgxpool"
)

const (
	pointRead = "SELECT abalance FROM pgbench_accounts WHERE aid = $1"
	sleep     = "SELECT pg_sleep(0.05)"
	factor    = 7919
	modulus   = 100003
)

const (
	warmUp = iota
	measuring
	over
)

var (
	callers     = flag.Int("callers", 1, "goroutines")
	connections = flag.Int("connections", 1, "the pool's size")
	rows        = flag.Int("rows", 1000000, "rows of pgbench_accounts")
	seconds     = flag.Float64("seconds", 1, "how long to measure")
	warm        = flag.Float64("warm-up", 0.2, "seconds before that")
	sleepers    = flag.Float64("sleepers", 0, "percent of the statements that sleep")
	phase       int32
)

type caller struct {
	random     *rand.Rand
	statements int
	latencies  []float64 // ms, of the point reads alone
}

func die(format string, args ...interface{}) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
	os.Exit(1)
}

func readPoint(pool *pgxpool.Pool, aid int) {
	var balance int
	if err := pool.QueryRow(context.Background(), pointRead, aid).Scan(&balance); err != nil {
		die("aid %d: %v", aid, err)
	}
	if expected := aid * factor % modulus; balance != expected {
		die("aid %d: abalance is %d, not %d", aid, balance, expected)
	}
}

func sleepOnServer(pool *pgxpool.Pool) {
	if _, err := pool.Exec(context.Background(), sleep); err != nil {
		die("pg_sleep: %v", err)
	}
}

func (c *caller) callUntilOver(pool *pgxpool.Pool) {
	for atomic.LoadInt32(&phase) != over {
		sleeper := c.random.Float64()*100 < *sleepers
		aid := 1 + c.random.Intn(*rows)
		began := time.Now()
		if sleeper {
			sleepOnServer(pool)
		} else {
			readPoint(pool, aid)
		}
		if atomic.LoadInt32(&phase) != measuring {
			continue
		}
		c.statements++
		if !sleeper {
			c.latencies = append(c.latencies, float64(time.Since(began).Nanoseconds())/1e6)
		}
	}
}

// User and system, of the whole process.
func cpuMicroseconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		die("getrusage: %v", err)
	}
	return float64(u.Utime.Sec+u.Stime.Sec)*1e6 + float64(u.Utime.Usec+u.Stime.Usec)
}

// By nearest rank.
func quantile(sorted []float64, q float64) float64 {
	rank := int(math.Ceil(q * float64(len(sorted))))
	if rank < 1 {
		rank = 1
	}
	return sorted[rank-1]
}

func tell(name, unit string, value float64) {
	fmt.Printf("%s\t%s\t%.6g\t\n", name, unit, value)
}

func tellAll(all []*caller, elapsed, cpu float64, connections int32) {
	statements := 0
	var latencies []float64
	for _, c := range all {
		statements += c.statements
		latencies = append(latencies, c.latencies...)
	}
	if len(latencies) == 0 {
		die("no point read was answered within the time")
	}
	sort.Float64s(latencies)
	tell("throughput", "statements/s", float64(statements)/elapsed)
	tell("latency p50", "ms", quantile(latencies, 0.5))
	tell("latency p90", "ms", quantile(latencies, 0.9))
	tell("latency p99", "ms", quantile(latencies, 0.99))
	tell("latency p99.9", "ms", quantile(latencies, 0.999))
	tell("latency max", "ms", quantile(latencies, 1))
	tell("CPU", "us/statement", cpu/float64(statements))
	tell("connections", "count", float64(connections))
}

func pass(seconds float64) {
	time.Sleep(time.Duration(seconds * float64(time.Second)))
}

func measure(pool *pgxpool.Pool) {
	var done sync.WaitGroup
	all := make([]*caller, *callers)
	for i := range all {
		c := &caller{random: rand.New(rand.NewSource(time.Now().UnixNano() + int64(i)))}
		all[i] = c
		done.Add(1)
		go func() {
			defer done.Done()
			c.callUntilOver(pool)
		}()
	}
	pass(*warm)
	began, cpu := time.Now(), cpuMicroseconds()
	atomic.StoreInt32(&phase, measuring)
	pass(*seconds)
	atomic.StoreInt32(&phase, over)
	elapsed, used := time.Since(began).Seconds(), cpuMicroseconds()-cpu
	done.Wait()
	tellAll(all, elapsed, used, pool.Stat().TotalConns())
}

// The server is found by PGHOST and the like.
func openPool() *pgxpool.Pool {
	config, err := pgxpool.ParseConfig("")
	if err != nil {
		die("%v", err)
	}
	config.MaxConns = int32(*connections)
	pool, err := pgxpool.ConnectConfig(context.Background(), config)
	if err != nil {
		die("%v", err)
	}
	return pool
}

func main() {
	flag.Parse()
	if flag.NArg() > 0 || *callers < 1 || *connections < 1 || *rows < 1 {
		die("usage: pgxpool --callers N --connections M --seconds S --warm-up S [--sleepers PERCENT] [--rows N]")
	}
	pool := openPool()
	measure(pool)
	pool.Close()
}
