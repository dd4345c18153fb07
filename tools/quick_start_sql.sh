#!/usr/bin/env bash
# quick_start_sql.sh: prints the SQL of docs/quick-start.md, without the statements that show an error.

awk '/^<!-- fails -->/ { fails = 1 }
    /^```$/ { sql = fails = 0 }
    sql && !fails
    /^```sql$/ { sql = 1 }' "$(dirname "${BASH_SOURCE[0]}")/../docs/quick-start.md"
