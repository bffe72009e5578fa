"""Reserve before dispatch, settle after: limits that hold under concurrency and crash."""
