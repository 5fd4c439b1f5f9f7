-- What was learned of durations is one small value for each upstream from here on, which its timetable reads and writes.
-- Of the durations that were kept until now it makes its own at the next start.

INSERT INTO meta (key, value)
SELECT 'durations:' || upstream, CAST(json_object('durations_ms', json_group_object(model, json(durations_ms))) AS BLOB)
FROM (
    SELECT upstream, model, json_group_array(duration_ms) AS durations_ms
    FROM (SELECT upstream, model, duration_ms FROM durations WHERE model <> '' ORDER BY upstream, model, seq)
    GROUP BY upstream, model)
GROUP BY upstream;

DROP TABLE durations;
